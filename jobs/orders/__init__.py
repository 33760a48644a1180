"""Reading a purchase order from a file: `read.read_order`."""
