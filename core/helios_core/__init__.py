"""What agent, collector, detector and reporter share: windows, sketches, features, ports, config.

The light part (everything but `bus`, `store` and `features`) needs no scientific stack.
"""
