"""What logs of any origin and age tell of the image job: foreign key errors, completions, skips, unknown errors.

source.py   a file, a gzip file or a pipe → blocks of whole lines
lines.py    one line → what it says, or nothing; pure
scan.py     blocks → Report: only lines that hold a needle are looked at; pure
"""
