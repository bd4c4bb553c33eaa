# Swagger UI, for the page at /. It is fetched when the build is configured; a build without it works, and its
# page says what is missing.

set(LM_SWAGGER_UI "" CACHE PATH "Folder with swagger-ui-bundle.js and swagger-ui.css; empty: scripts/fetch-swagger-ui")
set(lm_swagger_folder "${LM_SWAGGER_UI}")
if(NOT lm_swagger_folder)
  execute_process(COMMAND "${CMAKE_SOURCE_DIR}/scripts/fetch-swagger-ui"
    OUTPUT_VARIABLE lm_swagger_folder ERROR_VARIABLE lm_swagger_says OUTPUT_STRIP_TRAILING_WHITESPACE
    RESULT_VARIABLE rc TIMEOUT 180)
  if(NOT rc EQUAL 0)
    message(WARNING "No Swagger UI: the page at / will say so, /redoc and /openapi.json work. "
      "Run scripts/fetch-swagger-ui where there is a network, then configure again.\n${lm_swagger_says}")
    set(lm_swagger_folder "")
  endif()
endif()

set(lm_swagger_files)
if(lm_swagger_folder)
  set(lm_swagger_files
    /explorer/swagger-ui-bundle.js "${lm_swagger_folder}/swagger-ui-bundle.js"
    /explorer/swagger-ui.css "${lm_swagger_folder}/swagger-ui.css")
endif()
