"""An evaluation as a page to be read: one file that opens offline."""
