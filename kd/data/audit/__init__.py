"""Looking at every image and mask of a data set once, before hours are spent on them."""
