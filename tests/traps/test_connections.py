"""Trap 15: a process sends from several threads, and then not for a while."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from threading import Barrier

from in_process import Ours, Stock, Twin, until
from sockets import connections

THREADS = 6


def send_from_threads(twin: Twin) -> None:
    together = Barrier(THREADS)

    def send(number: int) -> None:
        together.wait(10)  # each thread sends one
        twin.send(f"job-{number}")

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(send, range(THREADS)))


def test_stock_opens_a_connection_for_each_thread_that_sends(stock: Stock, amqp_port: int) -> None:
    before = connections(amqp_port)
    send_from_threads(stock)
    assert len(connections(amqp_port) - before) == THREADS


def test_all_threads_send_over_one_connection(ours: Ours, amqp_port: int) -> None:
    before = connections(amqp_port)
    ours.send("first")  # makes the queue
    send_from_threads(ours)
    assert len(connections(amqp_port) - before) == 1


def test_an_idle_sender_of_stocks_is_hung_up_on_and_ours_is_not(vhost_url: str, redis_url: str, amqp_port: int) -> None:
    url = f"{vhost_url}?heartbeat=1"
    with closing(Stock(url, queue_name="stock")) as stock, closing(Ours(url, redis_url)) as ours:
        before = connections(amqp_port)
        ours.send("first")
        mine = connections(amqp_port) - before
        stock.send("first")
        stocks = connections(amqp_port) - before - mine
        assert (len(mine), len(stocks)) == (1, 1)
        until(lambda: not stocks & connections(amqp_port), "RabbitMQ hangs up on the one that is silent")
        ours.send("second")
        assert connections(amqp_port) - before == mine, "ours has gone on with its own"
        stock.send("second")
        assert len(connections(amqp_port) - before - mine) == 1, "stock has had to connect anew"
