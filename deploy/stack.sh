#!/bin/sh
# deploy/stack.sh up: builds and starts the whole project in containers, waits until it is healthy, says where things are.
# deploy/stack.sh test: the smoke test, on a stack of its own that is gone afterwards.
set -eu
cd "$(dirname "$0")/.."

if ! docker info >/dev/null 2>&1 || ! docker compose version >/dev/null 2>&1; then
    printf 'No Docker engine with the compose plugin answers: start one, or use "make run", which needs none.\n' >&2
    exit 1
fi

stack() {
    docker compose -f deploy/compose.yaml "$@"
}

case ${1:-} in
    up)
        stack up --build --detach --wait
        cat <<END

Up and healthy; the passwords are in .env.
  RabbitMQ      amqp://$(stack port rabbitmq 5672), page http://$(stack port rabbitmq 15672)
  job records   redis://$(stack port redis 6379)
  PostgreSQL    postgresql://$(stack port postgres 5432)/warehouse
  e-mails       http://$(stack port mailpit 8025)
A job:  docker compose -f deploy/compose.yaml run --rm scheduler jobkit status ACTOR JOB_ID
Logs:   docker compose -f deploy/compose.yaml logs --follow
Stop:   docker compose -f deploy/compose.yaml down      (with --volumes the data goes too)
END
        ;;
    test) STACK=1 exec .venv/bin/pytest -q tests/stack ;;
    *)
        printf 'deploy/stack.sh up, or deploy/stack.sh test\n' >&2
        exit 2
        ;;
esac
