"""Finding what a saga may not do, by reading its source: nothing is imported or run.

`rules` names what is forbidden and what to use instead; `module` knows a file's names, functions and entries (its
sagas); `walking` goes through an entry and what it calls in that file; `sets` knows values without an order;
`allowing` reads the comments that allow a finding. `lint` puts them together.

What is found is what the source shows: names that imports and assignments of this file lead to a known library. What
happens behind a call into another module is not seen; the test kit's double run and the replay find that.
"""
