"""The same scores from a Ray cluster: `run` has the whole, `pipeline` is Ray, `parts` the output."""

from importlib.util import find_spec

from chexscore.errors import UsageError

if find_spec("pyarrow") is None:
    raise UsageError("what Ray clusters write needs pyarrow: pip install 'chexscore[ray]'.")
