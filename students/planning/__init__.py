"""What a recipe would cost on several devices and machines, from what one device here needs."""
