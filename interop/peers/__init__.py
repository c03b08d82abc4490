"""One module per foreign implementation that the project is proved against."""
