"""Labels that a folder has for its photos: label files, masks, names. Each format is a file."""
