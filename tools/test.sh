#!/bin/sh
# `make test`: every test that can run here. What cannot run is skipped by name with its reason; where packages could
# have been installed (root with apt), a skip is a failure.
set -eu
cd "$(dirname "$0")/.."
bin=$1
skips=""
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null && [ -n "${CI:-}" ]; then
    skips="--max-skips 0"
fi
echo "test: unit, property, vector and simulation tests, then namespaces, foreign peers and the UML guest"
exec "$bin/pytest" $skips
