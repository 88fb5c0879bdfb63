<?php

namespace App\Providers;

use App\Broadcasting\SignedRedisBroadcaster;
use Illuminate\Support\Facades\Broadcast;
use Illuminate\Support\Facades\Route;
use Illuminate\Support\ServiceProvider;

// The class that the project ships as an example; an application has a copy in app/Broadcasting.
require_once dirname(base_path(), 2).'/examples/laravel/SignedRedisBroadcaster.php';

class BroadcastServiceProvider extends ServiceProvider
{
    public function boot()
    {
        Broadcast::extend('signed-redis', function ($app, $config) {
            return new SignedRedisBroadcaster($app, $config);
        });

        // For session cookie and bearer token alike.
        Broadcast::routes(['middleware' => ['web', 'auth:web,api']]);

        // For the session cookie alone.
        Route::prefix('session')->group(function () {
            Broadcast::routes(['middleware' => ['web', 'auth']]);
        });

        // For the bearer token alone.
        Route::prefix('token')->group(function () {
            Broadcast::routes(['middleware' => ['auth:api']]);
        });

        // An application that sends everybody to the login page, also one who asks for JSON.
        Route::post('moved/broadcasting/auth', function () {
            return redirect()->route('login');
        });

        require base_path('routes/channels.php');
    }
}
