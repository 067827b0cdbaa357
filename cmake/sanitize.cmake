# A module that watches itself, for scripts/sanitize; never installed.
#   JSARAG_SANITIZE=address   memory errors and undefined behaviour
#   JSARAG_SANITIZE=thread    data races
set(JSARAG_SANITIZE "" CACHE STRING "address or thread: a build for scripts/sanitize")

function(jsarag_sanitize target)
  if(JSARAG_SANITIZE STREQUAL "")
    return()
  elseif(JSARAG_SANITIZE STREQUAL "address")
    # null, object-size and vptr are left out: address sees what follows from them, and with them the
    # kernels, lambdas throughout, compile for ten minutes.
    set(flags -fsanitize=address,undefined,float-cast-overflow -fno-sanitize=null,object-size,vptr
              -fno-sanitize-recover=all)
  elseif(JSARAG_SANITIZE STREQUAL "thread")
    set(flags -fsanitize=thread)
  else()
    message(FATAL_ERROR "JSARAG_SANITIZE: expected address or thread, found ${JSARAG_SANITIZE}")
  endif()
  # After the release flags, so that -O1 holds.
  target_compile_options(${target} PRIVATE -O1 -g1 -fno-omit-frame-pointer ${flags})
  target_link_options(${target} PRIVATE ${flags})
endfunction()
