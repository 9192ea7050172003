"""The command line."""

import sys
from pathlib import Path

# In a submitted job the user's folder stands first on the path, and a `rewards.py` in it would be taken for ours.
# Here, because nothing of ours is imported before this.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
