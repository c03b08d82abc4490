"""The sans-IO roles of O/TWAMP."""
