"""What is wrong with training data, before money is spent on it: the data report and what mends its findings.

`kinds` lists what can be found, `report` finds it, `fix` mends what needs no thought, `split` holds lines back.
Knows nothing about rows of the database, stores or tokenizers.
"""

from rootstock.quality.findings import Finding, Report
from rootstock.quality.kinds import SEVERITIES, Kind, Severity
from rootstock.quality.reporting import report

__all__ = ["SEVERITIES", "Finding", "Kind", "Report", "Severity", "report"]
