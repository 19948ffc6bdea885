"""From trained networks to a paper: evaluation, statistics, tables, figures and comparisons."""
