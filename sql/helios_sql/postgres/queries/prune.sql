SELECT helios_prune(:before_us)
