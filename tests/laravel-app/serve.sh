#!/bin/sh
# Serves the application in the foreground, with a fresh database where there is none. TERM, INT or
# HUP to this script ends PHP and its workers; PHP by itself would leave the workers behind.
#
#   HOST (127.0.0.1), PORT (8000), WORKERS (4)
#   APP_STORAGE   where everything is written (default: storage/ in here)
# and every variable of .env, for example REDIS_PORT, REDIS_CLIENT=phpredis, REDIS_PREFIX= (none).
set -e
if [ -n "${APP_STORAGE:-}" ]; then mkdir -p "$APP_STORAGE"; APP_STORAGE=$(cd "$APP_STORAGE" && pwd); fi
cd "$(dirname "$0")"
APP_STORAGE=${APP_STORAGE:-$PWD/storage}
mkdir -p "$APP_STORAGE/app"
export APP_STORAGE
database=$APP_STORAGE/app/database.sqlite
if [ ! -s "$database" ]; then
    : >"$database"
    php artisan migrate --force --seed
fi
export PHP_CLI_SERVER_WORKERS="${WORKERS:-4}"
php -d variables_order=EGPCS -S "${HOST:-127.0.0.1}:${PORT:-8000}" -t public server.php &
php=$!
trap 'kill $(cat "/proc/$php/task/$php/children" 2>/dev/null) "$php" 2>/dev/null' EXIT
trap 'exit 0' TERM INT HUP
wait "$php"
