"""What ends a run through no fault of its recipe: each is told in one line, without a traceback.

After the `RESUMABLE` ones the run can be resumed as it is.
"""

from actors.fleet import FleetFailed
from actors.ranks import TrainerGroupError
from actors.store import StoreFull
from cluster.signals import Interrupted
from cluster.stopping import Stopped
from metrics.waits import Overdue
from rewards.contract import RewardOutage
from trainers.bad_steps import TooManyBadSteps

FAILURES = (FleetFailed, Interrupted, Overdue, RewardOutage, Stopped, StoreFull, TooManyBadSteps, TrainerGroupError)
RESUMABLE = (Stopped,)
