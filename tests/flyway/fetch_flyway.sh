#!/bin/sh
# Put a real Flyway into .cache/ at the repository's root; does nothing when it is there already.
# It comes from Maven Central through mvn, as mvn is set up on this machine.
set -eu

version=11.8.2
cache=$(CDPATH= cd -- "$(dirname -- "$0")/../.." && pwd)/.cache
home="$cache/flyway-$version"

[ -x "$home/flyway" ] && exit 0
for tool in java javac mvn tar; do
    command -v "$tool" >/dev/null || { echo "fetch_flyway.sh: $tool is missing" >&2; exit 1; }
done

fetched="$cache/fetched-flyway"
mkdir -p "$fetched"
mvn -q -B dependency:copy \
    -Dartifact="org.flywaydb:flyway-commandline:$version:tar.gz" -DoutputDirectory="$fetched"
# Of two hundred megabytes only what PostgreSQL needs; moved last, so that half of it is nothing.
tar -xzf "$fetched/flyway-commandline-$version.tar.gz" -C "$fetched" --wildcards \
    '*/flyway' '*/lib/*.jar' '*/drivers/postgresql-*.jar' '*/licenses/*'
mv "$fetched/flyway-$version" "$home"
rm -r "$fetched"
