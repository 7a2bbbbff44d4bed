"""Findings about the policy: which values of the search's settings were adopted, and since when.

What belongs here: the policy file that counts, and what outweighs it. What does not: the file's
rules (`policy_file`), which tables it makes stale (`fleets`).
"""

import json

from tsfm_pipeline.cli.doctor.findings import Finding, Section
from tsfm_pipeline.policy_file import strict_json
from tsfm_pipeline.settings import SearchSettings, Settings


def policy_section(settings: Settings) -> Section:
    """Return which policy is in force and since when, what it changes, and where it comes from."""
    policy = settings.policy
    if policy is None:
        none = Finding("policy", "none: the defaults of this release, and TSFM_SEARCH__* variables")
        return Section("policy", "policy", [none])
    changes = ", ".join(policy.changes) or "nothing"
    findings = [
        Finding("policy", f"{policy.digest} of {policy.path}, since {policy.since}"),
        Finding("changes", changes),
    ]
    if policy.provenance:
        said = json.dumps(strict_json(policy.provenance), sort_keys=True)
        findings.append(Finding("provenance", said))
    adopted = SearchSettings.model_validate(policy.search)
    outweighed = [
        name for name in policy.search if getattr(settings.search, name) != getattr(adopted, name)
    ]
    if outweighed:
        names = ", ".join(outweighed)
        said = f"{names}: a TSFM_* variable or the profile sets another value than the policy"
        remedy = "unset the variable if the policy is meant to count"
        findings.append(Finding("outweighed", said, "warning", remedy))
    return Section("policy", "policy", findings)
