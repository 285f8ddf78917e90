"""Reading sagas from the topics, which needs no living worker: for the client and the command line.

`reader` fetches records, `lookup` knows where a question's answer stands, `stored` sorts sagas out by keys and
headers, `status` folds one into what people see, `outcomes` tells what became of a request, `rebuilding` compares
what the topics say twice, `recordings` are runs to be kept in a file, `replaying` runs today's code over one,
`explaining` says why a saga is not moving, from what it waits for and from its `surroundings` and `owners`.
"""
