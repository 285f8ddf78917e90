"""The topic on which the orders service tells what has happened. $KOMPENSATE_PREFIX keeps runs on one broker apart."""

import os

from kompensate.outbox.events import EventTopic

ORDER_EVENTS = EventTopic(f"{os.environ.get('KOMPENSATE_PREFIX', '')}orders.events", service="orders", partitions=4)
