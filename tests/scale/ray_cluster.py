"""A Ray cluster of several nodes on this machine; it ends when its stdin does.

    python ray_cluster.py NODES

It prints its address. A line `kill` on stdin kills the node that was added last without warning, `add` adds one; each is answered by `ok`.
"""

import logging
import sys

from ray.cluster_utils import Cluster

SMALL = {"object_store_memory": 80 << 20}


def main() -> None:
    logging.disable(logging.CRITICAL)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, **SMALL})
    nodes = [cluster.add_node(num_cpus=4, **SMALL) for _ in range(int(sys.argv[1]))]
    print(cluster.address, flush=True)
    for line in sys.stdin:
        if line.strip() == "kill":
            cluster.remove_node(nodes.pop(), allow_graceful=False)
        else:
            nodes.append(cluster.add_node(num_cpus=4, **SMALL))
        print("ok", flush=True)
    cluster.shutdown()


if __name__ == "__main__":
    main()
