"""Training of networks for chexscore: a labelled data set in, a run folder out."""
