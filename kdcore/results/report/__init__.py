"""The report page, report.html: one file that needs no network."""
