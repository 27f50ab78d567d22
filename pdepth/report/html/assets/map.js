function redrawMap() {}
