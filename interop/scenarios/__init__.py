"""What is proved against foreign implementations, one folder for each scenario; `cases` says how to read them."""
