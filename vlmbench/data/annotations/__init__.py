"""The labels that a folder has for its photos: label files, masks, names. A file for each format."""
