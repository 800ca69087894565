"""How good predictions are: every metric of classes and of numbers, summed so that the order of rows changes nothing."""
