"""The demonstration: real flights through a real gateway, and a bad version rolled back by itself."""
