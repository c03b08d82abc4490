"""Pure codecs of O/TWAMP messages and test packets."""
