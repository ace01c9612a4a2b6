# abupdate runs while an image is built, too.
BBCLASSEXTEND += "native"
