"""Where events wait until they are delivered: the seams `Queue` and `Engine`, and the engines behind them."""
