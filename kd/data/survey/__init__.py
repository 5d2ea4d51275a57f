"""What a folder of images and masks is, seen without being told: places, coding of the labels, sizes."""
