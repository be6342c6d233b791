"""An annex of a sandbox: another session's files, and nothing else of it."""
