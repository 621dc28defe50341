"""The post's broker."""

from dramatiq import set_broker
from upgrade_jobs import PostTask, ShopTask, declare_task, open_resources

from jobkit.service import Service
from jobkit.settings import exit_if_misconfigured, load_platform
from post_service.settings import PostSettings

service = Service("post", lifespan=open_resources)
declare_task(service, PostTask, child=ShopTask)


def broker() -> None:
    """Build it; the dramatiq command calls this."""
    with exit_if_misconfigured():
        set_broker(service.build(load_platform(), PostSettings.load()))
