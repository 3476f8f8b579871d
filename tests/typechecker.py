"""How annotations are checked while the tests run: an int passes where a float is meant."""

from beartype import BeartypeConf, beartype

check = beartype(conf=BeartypeConf(is_pep484_tower=True))
