"""The study of the outer loop: experiments that improve the settings of the search.

What belongs here: a fixed yardstick over tuning requests, policy files, the experiments that judge
them, and the drivers that propose them. What does not: the search itself (`autoresearch`), and
adopting a policy, which any fleet does by reading one file (`settings`).

The data's way through this package:

    prepare     tables of every candidate's forecasts and evidence at tuning requests (`tables`)
    yardstick   what no experiment may change: fleets, folds, budget, and digests of code and data
    policy      what an experiment may change: fields of `SearchSettings`
    experiment  one policy on the yardstick, in a process of its own (`process`, `experiment`)
    ledger      one line per experiment, never rewritten
    loop        propose (`drivers`), run, keep or discard, promote
    promotion   the folds that chose nothing decide; then one look at test tenants
"""
