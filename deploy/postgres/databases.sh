#!/bin/sh
# Two databases of one server, each with an owner of its own. The image runs this once, on an empty volume.
set -eu
: "${MLFLOW_DB_PASSWORD:?}" "${PREFECT_DB_PASSWORD:?}"

# Passwords reach psql by its environment, not by arguments that `ps` shows.
psql -v ON_ERROR_STOP=1 --quiet --username "${POSTGRES_USER:-postgres}" --dbname postgres <<'SQL'
\set mlflow `printf %s "$MLFLOW_DB_PASSWORD"`
\set prefect `printf %s "$PREFECT_DB_PASSWORD"`
CREATE ROLE mlflow LOGIN PASSWORD :'mlflow';
CREATE ROLE prefect LOGIN PASSWORD :'prefect';
CREATE DATABASE mlflow OWNER mlflow;
CREATE DATABASE prefect OWNER prefect;
REVOKE CONNECT ON DATABASE mlflow FROM PUBLIC;
REVOKE CONNECT ON DATABASE prefect FROM PUBLIC;
\connect prefect
CREATE EXTENSION IF NOT EXISTS pg_trgm;
SQL
