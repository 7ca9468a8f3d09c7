SELECT raw_from_us FROM rollup_state
