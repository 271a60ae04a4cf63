"""What the model must predict in pretraining: targets of acoustic and musical teachers, behind one protocol."""

from teachers.base import Targets as Targets
from teachers.base import TargetSource as TargetSource
from teachers.base import Teacher as Teacher
from teachers.base import TeacherError as TeacherError
from teachers.clustering import Fitting as Fitting
from teachers.registry import FITTED as FITTED
from teachers.registry import READY as READY
from teachers.registry import fit_teacher as fit_teacher
from teachers.registry import load_teacher as load_teacher
