"""Reads tables of Lance: what to read in, tables of the promised schema out. Imports no Ray.

scan           what to read: tables, columns, filter, as data
pushdown       makes a checked scan of arguments; reserved: names of columns that mean something else
size           mean bytes of a row
planning       cuts a read into tasks; tasks: what a task is
reader         runs tasks
take           reads rows by number; row_ids: offsets -> row ids; row_sets: sets of rows for Lance's scanner
scatter        puts rows into another order; fixed_width: the bytes of each row; overflow: strings of more than 2 GiB
blob_contents  bytes of blobs, which a take does not give
delivery       what is delivered of the rows that Lance gave
dictionaries   the categories of a table's columns
rebatch        tables of one size
"""
