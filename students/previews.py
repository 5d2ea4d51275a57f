from PIL import Image


def sheet(rows, classes, colours):
    return Image.new("RGB", (4, 4))
