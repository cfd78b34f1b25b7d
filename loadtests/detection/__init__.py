"""What the monitor finds, how soon, and how often it is wrong: the fourteen targets, each beside a dummy."""
