"""The same scores from a Ray cluster.

run          inputs -> a folder of parts; and merge: the folder -> one file
pipeline     Ray Data; runs `decoding` and `scorer` on the nodes
connection   to the cluster
job          what each node has to know
parts        the output
listing      the inputs
storage      where both are
"""

from importlib.util import find_spec

from chexscore.errors import UsageError

if find_spec("pyarrow") is None:
    raise UsageError("what Ray clusters write needs pyarrow: pip install 'chexscore[ray]'.")
