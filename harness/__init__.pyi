from harness.api import HarnessError as HarnessError
from harness.api import RunFailed as RunFailed
from harness.api import Study as Study
from harness.api import load_report as load_report
from harness.api import load_sweep as load_sweep

OWN_MODELS: str
DISTRIBUTION: str
API: tuple[str, ...]
__version__: str
