from .configuration import MitigationConfig
from .data import MitigationData, mitigation_data, synthetic_parts
from .results import check_mitigation, write_mitigation
from .running import Mitigation, mitigate

__all__ = [
    "Mitigation",
    "MitigationConfig",
    "MitigationData",
    "check_mitigation",
    "mitigate",
    "mitigation_data",
    "synthetic_parts",
    "write_mitigation",
]
