"""What the templates show, as plain values: data of the engine in, words and figures out."""
