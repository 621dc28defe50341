"""The shop's broker."""

from dramatiq import set_broker
from upgrade_jobs import PostTask, ShopTask, declare_rest, declare_task, open_resources

from jobkit.service import Service
from jobkit.settings import exit_if_misconfigured, load_platform
from shop_service.settings import ShopSettings

service = Service("shop", lifespan=open_resources)
declare_task(service, ShopTask, child=PostTask)
declare_rest(service)


def broker() -> None:
    """Build it; the dramatiq command calls this."""
    with exit_if_misconfigured():
        set_broker(service.build(load_platform(), ShopSettings.load()))
