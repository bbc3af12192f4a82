"""The screen: Home.py is the entry, ui/ is what pages are drawn with."""
