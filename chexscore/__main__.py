"""python -m chexscore, the same as the command chexscore."""

from chexscore.cli import main

main()
